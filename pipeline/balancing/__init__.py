"""How the tasks of one network are balanced: from their losses to the gradients of the parameters."""
