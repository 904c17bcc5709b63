"""What runs the subnetworks: CPU, CUDA, TensorRT, and what each costs there."""
