"""Face verification: do two images show one identity? Sets of pairs, and the figures the field quotes."""
