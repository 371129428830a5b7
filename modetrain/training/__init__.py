"""The parts of the training loop: time, state, non-finite values, errors of steps, slow workers."""
