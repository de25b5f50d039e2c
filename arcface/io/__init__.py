"""Files, images and text from anywhere, and what is written so that it is whole."""
