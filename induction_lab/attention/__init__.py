"""What does a head put on a key, exactly, at the cost of a flash kernel?"""
