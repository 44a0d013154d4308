"""Scores, cost and constant predictors of one network."""
