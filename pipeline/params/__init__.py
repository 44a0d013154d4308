"""params.yaml: its schema and types, the rules between values, the messages, and the one reader."""
