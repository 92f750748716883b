"""The Google Universal Image Embedding Challenge: competitions, scorer and leaderboard."""
