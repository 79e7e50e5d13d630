"""What both sides say and do in Flower."""
