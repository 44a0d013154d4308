"""Networks: a backbone and one of the registered architectures. Torch and timm only."""
