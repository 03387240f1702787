"""The run as one HTML file that opens anywhere: results, curves, the graph, and a browser of episodes."""
