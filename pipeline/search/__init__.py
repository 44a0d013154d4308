"""Search of hyperparameters with Optuna: trials of one run of params.yaml, scored on a tenth kept out of train."""
