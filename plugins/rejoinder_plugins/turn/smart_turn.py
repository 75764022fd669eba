"""The turn detector `smart_turn`: an audio model that hears whether somebody has finished."""
