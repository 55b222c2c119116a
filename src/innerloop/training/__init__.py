"""THE outer loop, and the record that it keeps."""
