"""Reading and writing: files, locks, images, text, pickles, and the log, reports and figures that several rooms print."""
