"""This process and this machine: start-up, device, hardware, processes."""
