"""Recipes out of other projects' configurations: text in, the texts of recipes out, nothing read and nothing written.

written   a recipe that extends a shipped one, as text
lightx2v  a LightX2V configuration, video pipelines of Wan
lighttts  a LightTTS command line, CosyVoice
"""

from trtbuild.recipe.conversion.written import Converted

__all__ = ["Converted"]
