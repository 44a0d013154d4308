"""Commands around the graph: trace, doctor, predict, and running its stages side by side."""
