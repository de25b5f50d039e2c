"""Datasets of training images: lists, tables, folders and RecordIO files, all with the same methods."""
