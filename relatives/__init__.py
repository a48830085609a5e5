"""What a lesson or two use: relatives of the methods that `utils` holds, a file for each."""
