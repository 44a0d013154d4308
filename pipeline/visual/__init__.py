"""Labels, predictions and curves as pictures."""
