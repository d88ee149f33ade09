"""What may come in: size, shape and time limits, safe decompression."""
