"""The Sparse DNN Graph Challenge: its networks, its inputs, and how fast they are answered."""
