"""What coordinator and vault say to each other, typed and with bounds."""
