"""The three canonical networks (CNN, LSTM, Transformer) as readable Keras layers, and the programs that use them."""

__version__ = "0.1.0"
