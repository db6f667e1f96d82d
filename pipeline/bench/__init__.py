"""How many images a CPU-second prepares, of each path and of the peers.  python -m pipeline.bench DATA"""
