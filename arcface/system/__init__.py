"""The process and its machine: start of Paddle, device, hardware, child processes, home directory and terminal."""
