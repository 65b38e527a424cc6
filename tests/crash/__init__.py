"""What a kill at any instant leaves behind."""
