"""What is optimised: the loss, the training step, its state and the optimiser."""
