"""What the pictures show: one file for each kind of thing."""
