"""The errors a user can cause.

Every message names what was wrong (the file or the field) and what to do about it.
Anything else that escapes from this package is a defect of the package.
"""


class LsapError(Exception):
    """Base of every error that a user's input, files or environment can cause."""


class CheckpointError(LsapError):
    """A weight file is damaged, hostile, of an unknown kind, or lacks a tensor."""


class FetchError(LsapError):
    """A pretrained asset could not be fetched, verified or stored."""


class ImageError(LsapError):
    """An image file or array cannot be used: unreadable, too small, of a wrong size."""


class FaceError(ImageError):
    """No face, or no usable landmarks, were found in an image."""


class ConfigError(LsapError):
    """A configuration field, preset or flag has an unknown name or an impossible value."""


class DirectionError(LsapError):
    """An editing direction is malformed or belongs to another generator."""


class RegionError(LsapError):
    """A region of the image is empty, full, malformed, or of an unknown name."""


class ResultError(LsapError):
    """A results folder cannot be written, or holds something this command did not write."""


class TrainingError(LsapError):
    """A training run cannot go on: a term of the loss, or its gradient, is not finite."""
