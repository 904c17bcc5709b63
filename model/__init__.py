"""What the network is: FractalNet, its paths and costs, and the bundle that carries it to the server."""
