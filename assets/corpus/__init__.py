"""The program that writes the text the quickstart model learns from.

`grammar` is a small template language, `words` the lexicon, `plots` and `plots_more` the stories
that `stories` tells; `facts` and `advice` are the tables, `questions`, `short_stories` and `persona`
the makers of the conversations.
Everything here was written for this repository; nothing is copied from another text.
"""
