"""How answers are read: one reader of letters, numbers and texts for training and evaluation."""
