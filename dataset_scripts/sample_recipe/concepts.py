"""The types of the embedded sample, and the concepts that assign images to nouns.

A concept is written `noun=image,image`: a WordNet noun, and the short names of images that show it
or, for a general noun such as "bird", an instance of it. A number after a dot selects the sense of
the noun, if it is not the most frequent one in the type's lexicographer files. The images are
omitted if the only one has the noun's name. `{}` represents the countries, whose images are flags.
"""

from __future__ import annotations

CONCEPTS: dict[str, tuple[tuple[int, ...], str]] = {
    "mammal": (
        (5,),
        """dog=dog,dog face,guide dog,service dog; poodle; wolf; fox; raccoon; lion; tiger.2=tiger,
        tiger face; cat=cat,cat face,black cat; leopard; horse=horse,horse face,horse racing;
        zebra; deer; bison; water buffalo; cattle=cow,ox,cow face; swine=pig,pig face;
        wild boar=boar; sheep=ewe,ram; goat; camel=camel,two-hump camel; llama; giraffe;
        elephant; mammoth; rhinoceros; hippopotamus; mouse=mouse,mouse face; rat; hamster;
        rabbit=rabbit,rabbit face; chipmunk; beaver; hedgehog.2; bat; bear; ice bear=polar bear;
        koala; giant panda=panda; sloth; otter; skunk; kangaroo; badger; monkey=monkey,
        monkey face; gorilla; orangutan; whale=whale,spouting whale; dolphin.2; seal""",
    ),
    "bird": (
        (5,),
        """bird; penguin; dove; pigeon=dove; eagle; duck; swan; owl; dodo; flamingo; peacock.2;
        parrot; turkey; chicken=chicken,rooster; cock=rooster; hen=chicken; chick=baby chick,
        hatching chick""",
    ),
    "fish": ((5,), "fish=fish,tropical fish,fishing pole; puffer=blowfish; shark"),
    "reptile": (
        (5,),
        "crocodilian reptile=crocodile; turtle; lizard; snake; sauropod; theropod=T-Rex",
    ),
    "insect": (
        (5,),
        """butterfly; caterpillar=bug; ant; bee=honeybee; beetle; ladybug=lady beetle; cricket;
        cockroach; mosquito; fly; insect=ant,beetle,fly""",
    ),
    "tree": (
        (20,),
        """tree=deciduous tree,national park,house with garden; conifer=evergreen tree,
        national park; palm=palm tree,desert island; maple.2=maple leaf""",
    ),
    "flower": (
        (20,),
        "rose; tulip; sunflower; hibiscus; lotus; flower=blossom,white flower,bouquet",
    ),
    "fruit": (
        (13,),
        """grape=grapes; melon; watermelon; mandarin=tangerine; lemon; banana; pineapple; mango;
        pear; peach; apple=red apple,green apple; cherry=cherries; strawberry;
        blueberry=blueberries; kiwi=kiwi fruit; coconut; olive; avocado; berry=strawberry,
        blueberries; citrus=tangerine,lemon""",
    ),
    "vegetable": (
        (13,),
        """tomato; eggplant; potato; carrot; corn=ear of corn; hot pepper;
        sweet pepper=bell pepper; cucumber; lettuce=leafy green; greens=leafy green; broccoli;
        garlic; onion; mushroom; bean=beans; root vegetable=carrot;
        sweet potato=roasted sweet potato""",
    ),
    "food": (
        (13,),
        """bread; French bread=baguette bread; flatbread; croissant; pretzel; bagel;
        pancake=pancakes; waffle; cheese=cheese wedge; meat=cut of meat,meat on bone; bacon;
        hamburger; french fries; pizza; hot dog; sandwich; taco; burrito; tamale; egg;
        salad=green salad; popcorn; butter; soup=pot of food; stew=pot of food; pasta=spaghetti;
        sushi; dumpling; ice cream; doughnut; cookie; cake.3=shortcake, birthday cake; cupcake;
        pie; chocolate.2=chocolate bar; candy; lollipop; custard; honey=honey pot;
        curry=curry rice; rice=cooked rice; shrimp=fried shrimp; cracker=rice cracker""",
    ),
    "drink": (
        (13,),
        """wine=wine glass; beer=beer mug,clinking beer mugs; tea=teacup without handle;
        coffee=hot beverage; milk=glass of milk; cocktail=cocktail glass; sake;
        sparkling wine=bottle with popping cork; fruit juice=beverage box; liquor=tumbler glass;
        mate; cocoa=hot beverage; soft drink=cup with straw; mixed drink=tropical drink,
        cocktail glass""",
    ),
    "vehicle": (
        (6,),
        """car=automobile,oncoming automobile,sport utility vehicle; cab.3=taxi,oncoming taxi;
        bus=bus,oncoming bus; truck=delivery truck; ambulance; fire engine; cruiser=police car;
        tractor; motorcycle; bicycle=bicycle,person biking,woman biking; train=train,
        high-speed train; locomotive; streetcar=tram,tram car; racer=racing car; minibus;
        pickup=pickup truck; trailer truck=articulated lorry; wheelchair=manual wheelchair;
        skateboard; motor scooter; sled; railcar=railway car; passenger car=railway car;
        subway train=metro""",
    ),
    "watercraft": (
        (6,),
        """sailboat; sailing vessel=sailboat; canoe=canoe,person rowing boat; speedboat;
        motorboat=motor boat; ship; passenger ship; ferry; boat=motor boat,sailboat,
        person rowing boat,woman rowing boat""",
    ),
    "aircraft": (
        (6,),
        """airplane=airplane,small airplane; helicopter; heavier-than-air craft=airplane;
        spacecraft=rocket; satellite""",
    ),
    "building": (
        (6,),
        """house=house,house with garden,houses; church; hospital; hotel; school; factory;
        castle.2=castle; mosque; synagogue; temple=hindu temple,classical building;
        shop=convenience store; department store; hut.2=hut; stadium; tower=Tokyo tower;
        building=office building,cityscape,cityscape at dusk; tent=tent,camping""",
    ),
    "country": ((15,), "{}"),
    "city": ((15,), "city=cityscape,cityscape at dusk,night with stars,sunset"),
    "occupation": (
        (18,),
        """health professional=health worker,man health worker,woman health worker;
        clown.2=clown face; educator=teacher,man teacher,woman teacher; judge=judge,man judge,
        woman judge; farmer=farmer,man farmer,woman farmer; cook=cook,man cook,woman cook;
        mechanic.2=mechanic,man mechanic,woman mechanic; scientist=scientist,man scientist,
        woman scientist; singer=singer,man singer,woman singer; painter=artist,man artist,
        woman artist; sculptor=artist,man artist,woman artist; pilot=pilot,man pilot,
        woman pilot; astronaut=astronaut,man astronaut,woman astronaut; firefighter=firefighter,
        man firefighter,woman firefighter; policeman=police officer, man police officer,
        woman police officer; detective=detective,man detective, woman detective; guard=guard,
        man guard,woman guard; workman=construction worker, man construction worker,
        woman construction worker; mill-hand=factory worker, woman factory worker;
        programmer=technologist,woman technologist""",
    ),
    "clothing": (
        (6,),
        """shirt=t-shirt,necktie; trouser=jeans; necktie; scarf; glove.2=gloves; coat=coat,
        man detective; sock=socks; dress=dress,woman dancing; kimono; sari;
        swimsuit=one-piece swimsuit,bikini; underpants=briefs; short pants=shorts;
        blouse=woman’s clothes; hat=woman’s hat,top hat,man farmer,woman farmer; cap=billed cap,
        man police officer; helmet=military helmet,construction worker,firefighter;
        shoe=man’s shoe,running shoe,flat shoe; boot=woman’s boot, hiking boot;
        sandal=woman’s sandal,thong sandal""",
    ),
    "musical instrument": (
        (6,),
        """sax=saxophone; accordion; guitar; piano=musical keyboard; cornet=trumpet; violin; banjo;
        drum=drum,long drum; brass=trumpet; keyboard instrument=musical keyboard;
        stringed instrument=violin,guitar; percussion instrument=drum,long drum;
        woodwind=saxophone""",
    ),
    "sport": (
        (4,),
        """soccer=soccer ball; baseball; softball; basketball; volleyball;
        football=american football; rugby=rugby football; tennis; bowling; cricket=cricket game;
        field hockey; ice hockey; lacrosse; badminton; table tennis=ping pong;
        golf=person golfing,flag in hole; boxing=boxing glove; martial art=martial arts uniform;
        skating=ice skate; skiing=skier,skis; swimming=person swimming,man swimming,
        woman swimming; surfing=person surfing, man surfing; rowing=person rowing boat,
        woman rowing boat; cycling=person biking, woman biking; wrestling=people wrestling;
        fencing=person fencing; gymnastics=person cartwheeling; racing=horse racing,racing car;
        fishing=fishing pole; diving=diving mask; weightlifting=person lifting weights;
        curling=curling stone; archery=bow and arrow""",
    ),
    "tool": (
        (6,),
        """hammer.2=hammer; ax=axe; saw=carpentry saw; wrench=wrench,mechanic,woman mechanic;
        screwdriver; pick.7=pick; scissors; clamp; broom; razor; knife=kitchen knife;
        brush=paintbrush,artist,woman artist; needle.3=sewing needle; hook.5=hook; plunger;
        hand tool=hammer and wrench,toolbox; edge tool=axe,carpentry saw; cutter.6=axe,scissors""",
    ),
    "weapon": (
        (6,),
        """sword=crossed swords,dagger; dagger; bow.4=bow and arrow; bomb; boomerang;
        arrow=bow and arrow""",
    ),
    "body part": (
        (8,),
        """leg; foot; ear; nose; brain; heart=anatomical heart; lung=lungs; tooth; bone; eye;
        tongue; mouth; hand=raised hand,waving hand; finger=index pointing up,
        backhand index pointing up; thumb=thumbs up; arm=flexed biceps; lip=mouth""",
    ),
    "weather": (
        (19, 17),
        """rain=cloud with rain; snow=cloud with snow,snowflake; fog; wind=wind face; tornado;
        cyclone; cloud=cloud,sun behind cloud; rainbow; lightning=cloud with lightning;
        storm=cloud with lightning and rain; precipitation=cloud with rain""",
    ),
    "celestial body": (
        (14, 17),
        """sun=sun,sun behind cloud,sunrise over mountains,sunset; moon=full moon,crescent moon;
        star=star,glowing star,night with stars; comet; meteoroid=shooting star;
        planet=ringed planet; galaxy.3=milky way""",
    ),
    "landform": (
        (15, 17),
        """mountain=mountain,snow-capped mountain,sunrise over mountains; volcano.2=volcano;
        island=desert island; desert; dune=desert; beach=beach with umbrella""",
    ),
    "furniture": (
        (6,),
        """bed=bed,person in bed; chair; sofa=couch and lamp; file=file cabinet; seat=chair;
        lamp.2=couch and lamp""",
    ),
    "electronic device": (
        (6,),
        """telephone; cellular telephone=mobile phone; laptop=laptop,woman technologist;
        computer=desktop computer,technologist,man technologist; printer; radio; pager;
        computer keyboard=keyboard; facsimile.2=fax machine; television.3=television;
        camera=camera,camera with flash; television camera=video camera; headphone;
        microphone=microphone,studio microphone,singer,man singer; projector=film projector;
        loudspeaker=speaker high volume""",
    ),
    "currency": (
        (21, 23),
        """dollar=dollar banknote; pound.2=pound banknote; euro=euro banknote; yen=yen banknote;
        coin; bill=dollar banknote; monetary unit=money bag,coin""",
    ),
}

# Types that include instances, as "Everest" is a mountain. In other types instances are excluded:
# WordNet lists "Rembrandt" under "painter".
INSTANCE_TYPES = frozenset({"country", "city", "landform", "celestial body"})

# Types of activities: a verb of the same form ("they were skiing") denotes the activity as well.
ACTIVITY_TYPES = frozenset({"sport"})

# Lexicographer files whose senses are compatible with a type: a text on the plant that bears
# tomatoes is also a text on tomatoes.
RELATED_TOPICS = {"fruit": (13, 20), "vegetable": (13, 20), "tree": (20,), "flower": (20,)}

# Words that the checks accept in another sense too often, or that WordNet classifies unexpectedly
# (a web site under computers).
UNWANTED_MENTIONS = frozenset(
    {
        *("website", "web site", "internet site", "site", "portal", "chat room"),
        *("aerosol", "air", "breath", "cosmic dust", "fine spray", "gaseous nebula"),
        *("puff of air", "Saturn", "world"),
        *("anterior", "bottom", "chop", "chops", "hooks", "lantern jaw", "left", "mitt", "right"),
        *("shank's mare", "stick", "sticks"),
        *("bill", "box", "cabinet", "card index", "globe", "Rolodex", "stool"),
        *("change", "fractional monetary unit", "monetary unit", "sou"),
        *("bus", "center", "court", "graver", "residence"),
        *("data processor", "slide rule", "Turing machine"),
        *("clove", "cloves", "ice", "iceberg", "silver bell", "snag", "wintergreen"),
        *("Host", "large white", "liza", "Liza", "small white"),
        *("manhattan", "old fashioned"),
        *("Augusta", "Cleveland", "Columbus", "Nassau", "Providence", "Reading", "Toyota"),
        *("Empire", "Mull", "Nationalist China", "Republic of China", "Saint Martin"),
        *("bobby", "char", "Daniel", "gypsy", "housebreaker", "itinerant", "mover", "seasoner"),
        *("cowboy", "voice", "woman", "slacks"),
        *("bathe", "clean", "crab", "racing", "singles", "swim", "trolling", "tumbling"),
        # Not the country that has the flag today.
        *("Aram", "North", "Soviet Union", "Union", "Union of Soviet Socialist Republics", "USSR"),
    }
)

# Words that exclude a mention: "capital of Chad" names a country, but the mention is a city.
UNWANTED_PARTS = frozenset({"capital"})

# Texts with these parts are excluded: lists of classes, figures of speech, offensive content.
UNWANTED_TEXTS = (
    *("genus", "one species", "per cent", " equal ", "in some classifications"),
    *("some systems class", "coal bed", "chicken feathers", "movers and shakers"),
    *("acts as the chair", "endowed chair", "the chair is ill", "4th hand", "right hand corner"),
    *("a veritable swine", "beef heart", "crackers", "decapod crustaceans", "melon holes"),
    *("earl of", "Hebrew Tabernacle", "satellite communities", "used-cars"),
    *("legs of this dining table", "four legs contains", "grey at his temples", "Venus de Milo"),
    *("St. Paul's Cathedral", "kid gloves", "through the channels", "drizzle the meat"),
    *("tea has fragrant", "like hot cakes", "bugle beads", "rooster of a little man"),
    *("plant bugs in", "too big for his", "Dallas had enough", "transalpine university"),
    *("gone geese", "haze of tobacco", "like a bad penny", "resembling broom", "paintbrush of"),
    *("sickle pines", "Saint John's wort", "with a flat cap", "sweet orange flesh"),
    *("kind of pagoda", "a herder or swine"),
    *("rhyming slang", "prostitutes", "raped", "hashish", "marijuana", "heroin", "nickel bag"),
    *("pejorative", "derogatory", "river beds", "town and gown", "plant bugs in", "it drizzles"),
)
