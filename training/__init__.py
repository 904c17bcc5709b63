"""From a data set to a bundle: train a fractal network with drop-path, evaluate its subnetworks, export them."""
