"""Search a folder of pictures with an exported model."""
