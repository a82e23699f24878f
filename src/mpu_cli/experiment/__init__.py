"""Plans of many rounds: from a plan to a graph of steps, and from the graph to results."""
