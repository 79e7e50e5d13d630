"""`sotto client check`: one file for each group of checks."""
