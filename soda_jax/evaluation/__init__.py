"""`--mode=evaluate`: evaluators of features and of images, and the record of what they found."""
