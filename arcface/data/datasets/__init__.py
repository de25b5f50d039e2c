"""Kinds of training sets: lists, tables, folders and RecordIO files, all with the same methods."""
