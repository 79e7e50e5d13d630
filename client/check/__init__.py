"""`sotto client check`: one file per group of checks."""
