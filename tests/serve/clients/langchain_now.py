"""What people do with langchain-openai. Arguments as in openai_now.py."""

import sys
from importlib.metadata import version

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

base_url, *names = sys.argv[1:]
place = {"base_url": f"{base_url}/v1", "api_key": "EMPTY", "model": names[-1]}
chat = ChatOpenAI(**place, temperature=0, max_tokens=24)
prompt = ChatPromptTemplate.from_messages([("system", "You know vLLM."), ("user", "What is {term}?")])
chain = prompt | chat

answer = chain.invoke({"term": "a block table"})
assert answer.content and answer.usage_metadata["output_tokens"] <= 24
assert "".join(chunk.content for chunk in chain.stream({"term": "a block table"})) == answer.content
assert len(chain.batch([{"term": "a KV cache"}, {"term": "a page"}])) == 2

assert OpenAI(**place, max_tokens=8, n=1).invoke("Once upon a time")
many = OpenAI(**place, max_tokens=4, temperature=0.9, n=2, best_of=2).generate(["A fox", "A river"])
assert [len(choices) for choices in many.generations] == [2, 2]

# the tokens of its own models are no ids of this one's: it is told to send text
embeddings = OpenAIEmbeddings(**place, check_embedding_ctx_length=False)
assert len(embeddings.embed_documents(["one", "two"])) == 2 and embeddings.embed_query("one")
print("langchain-openai", version("langchain-openai"), "done")
