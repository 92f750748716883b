"""Reports of an evaluation: tables, plots, montages and one HTML page."""
