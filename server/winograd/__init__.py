"""Our own convolutions for the CPU: how the library is built, and the networks that run on it."""
