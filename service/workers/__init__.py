"""What is done to a photo before Triton sees its faces: in processes of their own, behind a line."""
