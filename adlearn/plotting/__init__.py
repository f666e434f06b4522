from .images import *
