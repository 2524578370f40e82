"""What the build service reaches outside itself."""
