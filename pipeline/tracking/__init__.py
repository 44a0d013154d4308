"""MLflow: what is logged, the store or server that it goes to, and what is asked of it. Imported here only."""
