"""The networks, one file each, built from `kerasnets.layers`; they save to `.keras` and load without custom_objects."""

from kerasnets.models.char_lstm import CharLSTM
from kerasnets.models.conv_net import ConvNet
from kerasnets.models.decoder_transformer import DecoderTransformer
from kerasnets.models.description import describe
from kerasnets.models.encoder_transformer import EncoderTransformer
from kerasnets.models.fully_convolutional import to_fully_convolutional
from kerasnets.models.seq2seq_lstm import Seq2SeqLSTM
from kerasnets.models.sequence_classifier import PixelRows, SequenceClassifier
from kerasnets.models.sequence_generator import SequenceGenerator
from kerasnets.models.sequence_tagger import SequenceTagger
from kerasnets.models.transformer import Transformer
from kerasnets.models.vision_transformer import VisionTransformer

__all__ = [
    "CharLSTM",
    "ConvNet",
    "DecoderTransformer",
    "EncoderTransformer",
    "PixelRows",
    "Seq2SeqLSTM",
    "SequenceClassifier",
    "SequenceGenerator",
    "SequenceTagger",
    "Transformer",
    "VisionTransformer",
    "describe",
    "to_fully_convolutional",
]
