"""What answers: the bundle, the devices it runs on, and the dispatcher that carries out what the scheduler decides."""
