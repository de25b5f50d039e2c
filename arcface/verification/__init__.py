"""Face verification: do two images show one person? Sets of pairs, and the figures the field quotes."""
