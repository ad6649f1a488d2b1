"""Ask a session through LangChain: OPENAI_BASE_URL and OPENAI_API_KEY say where, the argument is the model's name."""

import sys

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

prompt = ChatPromptTemplate.from_messages([("system", "You answer in one sentence."), ("user", "{question}")])
chain = prompt | ChatOpenAI(model=sys.argv[1], temperature=0)
print(chain.invoke({"question": "What is the capital of France?"}).content)
