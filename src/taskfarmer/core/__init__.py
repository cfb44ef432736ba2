"""What is decided, without the world: no file, clock, process or thread in here (a test reads the imports)."""
