"""Backbones of timm as pyramids of maps, and cut into stages for networks that exchange features between them."""
